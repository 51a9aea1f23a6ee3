package main

import "syscall"

// childAttr puts a child into a process group of its own, so that Ctrl-C reaches us alone and we stop it in order, and
// makes the kernel kill it when the thread that started it ends: it dies with us, however we die.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
