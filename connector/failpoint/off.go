//go:build !failpoint

package failpoint

// Enabled says whether this build stops at failpoints.
const Enabled = false

// Hit does nothing.
func Hit(string) {}
