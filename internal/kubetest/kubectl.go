package kubetest

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Kubectl runs kubectl as the admin and returns its standard output. A failing
// command ends the test.
func (s *Server) Kubectl(tb TB, args ...string) string {
	tb.Helper()
	return s.KubectlInput(tb, "", args...)
}

// KubectlInput is Kubectl with something on standard input, for "apply -f -".
func (s *Server) KubectlInput(tb TB, input string, args ...string) string {
	tb.Helper()
	out, err := s.TryKubectl(tb, input, args...)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return out
}

// TryKubectl is KubectlInput that returns the error, with what kubectl said.
func (s *Server) TryKubectl(tb TB, input string, args ...string) (string, error) {
	tb.Helper()
	flags := []string{"--kubeconfig=" + s.Kubeconfig, "--cache-dir=" + filepath.Join(s.Dir, "kubectl")}
	cmd := exec.CommandContext(tb.Context(), Binary(tb, "kubectl"), append(flags, args...)...)
	cmd.Stdin = strings.NewReader(input)
	var out, said strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, said.String())
	}
	return out.String(), nil
}
