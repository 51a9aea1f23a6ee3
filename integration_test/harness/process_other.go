//go:build !linux

package harness

import "syscall"

// childAttr has nothing to say: only Linux kills children with their parent.
func childAttr() *syscall.SysProcAttr { return nil }
