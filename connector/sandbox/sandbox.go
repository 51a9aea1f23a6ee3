// Package sandbox starts vendor sandboxes: HTTP servers that behave as the vendor sheets say, with fault switches and a
// log of effects that tests read (design sections 9 and 17). README.md lists what is the vendor's and what is our
// invention.
//
// A vendor is one package over package core; this package only knows their names.
package sandbox

import (
	"fmt"
	"strings"

	"github.com/weirsync/weir/connector/sandbox/core"
	"github.com/weirsync/weir/connector/sandbox/finfusion"
	"github.com/weirsync/weir/connector/sandbox/plain"
	"github.com/weirsync/weir/connector/sandbox/pushcash"
)

// The types of package core that callers need.
type (
	// Options of a sandbox.
	Options = core.Options
	// A Sandbox is one vendor sandbox.
	Sandbox = core.Sandbox
	// A Key is one accepted credential with its life.
	Key = core.Key
	// An Entry is one line of the effects log.
	Entry = core.Entry
	// A Fault is one thing that goes wrong with chosen requests.
	Fault = core.Fault
	// A Listener is what `weir sandbox` prints.
	Listener = core.Listener
	// A SwitchSpec describes one vendor setting.
	SwitchSpec = core.SwitchSpec
)

// Vendors lists the vendors that New knows.
func Vendors() []string { return []string{finfusion.Name, plain.Name, pushcash.Name} }

// New makes the sandbox of a vendor. It serves nothing until Start, or through its handlers.
func New(vendor string, o Options) (*Sandbox, error) {
	switch vendor {
	case plain.Name:
		return plain.New(o)
	case finfusion.Name:
		return finfusion.New(o)
	case pushcash.Name:
		return pushcash.New(o)
	}
	return nil, fmt.Errorf("sandbox %q is unknown; known: %s", vendor, strings.Join(Vendors(), ", "))
}

// Switches lists the settings of a vendor, nil for an unknown one.
func Switches(vendor string) []SwitchSpec {
	switch vendor {
	case plain.Name:
		return plain.Switches()
	case finfusion.Name:
		return finfusion.Switches()
	case pushcash.Name:
		return pushcash.Switches()
	}
	return nil
}

// Logged gives the names in a vendor's effects log: alias, of those operations that its profile calls otherwise, by the
// profile's name; own, of what the vendor does without a request (the actions of the admin interface). Both are nil for an
// unknown vendor.
func Logged(vendor string) (alias map[string]string, own []string) {
	switch vendor {
	case plain.Name:
		return map[string]string{"put_customer": "put_thing", "put_contract": "put_thing"}, nil
	case pushcash.Name:
		return nil, pushcash.Actions()
	}
	return nil, nil
}
