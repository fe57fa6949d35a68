package drain

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const (
	inNamespace = "ETCDKEEPER_TEST_NETNS"
	holder      = "ETCDKEEPER_TEST_HOLD"
)

// TestMain runs the tests in a network namespace of their own, so that no rule of theirs meets the machine's packets.
// Who is not root makes a user namespace too. Under -short nothing that needs a namespace runs.
func TestMain(m *testing.M) {
	flag.Parse()
	switch {
	case os.Getenv(holder) != "":
		hold()
	case testing.Short(), os.Getenv(inNamespace) != "":
		goleak.VerifyTestMain(m)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "a network namespace for the tests: it takes root, or user namespaces:", err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// hold drains for as long as the environment says, or until the process is killed.
func hold() {
	lifetime, err := time.ParseDuration(os.Getenv(holder))
	if err == nil {
		_, err = Start([]uint16{port}, lifetime, nil)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("held")
	select {}
}

// network brings loopback up with an address that is not a loopback address, once.
func network(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes a network namespace of its own: not with -short")
	}
	for _, args := range []string{
		"link set lo up", "address replace 192.0.2.1/32 dev lo", "address replace 192.0.2.2/32 dev lo",
		"-6 address replace 2001:db8::1/128 dev lo nodad",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	// A new IPv6 address answers a moment later.
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		err := reach("[2001:db8::1]:0")
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func reach(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := net.DialTimeout("tcp", l.Addr().String(), 200*time.Millisecond)
	if err != nil {
		return err
	}
	return c.Close()
}
