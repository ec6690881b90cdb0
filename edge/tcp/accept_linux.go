package tcp

import "syscall"

// accept takes one connection from the backlog, not blocking and not inherited by children.
func accept(fd int) (int, syscall.Sockaddr, error) {
	return syscall.Accept4(fd, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
}
