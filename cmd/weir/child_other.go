//go:build !linux

package main

import "syscall"

// childAttr: elsewhere a child shares our process group; on Ctrl-C it drains beside us, and it outlives us only if we
// are killed.
func childAttr() *syscall.SysProcAttr { return nil }
