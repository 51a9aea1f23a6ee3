package harness

import "syscall"

// childAttr makes the kernel kill the child when the thread that started it ends, which startProc keeps until the
// child has ended: so the child dies with the test process, however that dies.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
