//go:build !unix

package sqlite

import (
	"errors"
	"fmt"
	"os"
)

// lockFile has no implementation here: without a lock two runners would both deliver.
func lockFile(path string) (*os.File, error) {
	return nil, fmt.Errorf("lock store %s: %w; run on a Unix system or use a Postgres store", path, errors.ErrUnsupported)
}
