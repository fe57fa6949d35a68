package splitter

import (
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// fromContainer reads a container that runs kube-apiserver: its name, its command or its first argument says so.
func fromContainer(c corev1.Container) (apiServer, bool) {
	words := slices.Concat(c.Command, c.Args)
	env := map[string]string{}
	for _, e := range c.Env {
		env[e.Name] = e.Value
	}
	for i := range words {
		words[i] = expandEnv(words[i], env)
	}
	s := apiServer{flags: map[string][]string{}}
	if script, ok := shellScript(words); ok {
		if !strings.Contains(script, "kube-apiserver") {
			return s, false
		}
		s.shell = script
		words = shellWords(script)
	} else if c.Name != "kube-apiserver" && !slices.ContainsFunc(words, func(w string) bool {
		return w == "kube-apiserver" || strings.HasSuffix(w, "/kube-apiserver")
	}) {
		return s, false
	}
	for i, w := range words {
		name, ok := strings.CutPrefix(w, "--")
		if !ok {
			continue
		}
		name, value, has := strings.Cut(name, "=")
		if !has && i+1 < len(words) && !strings.HasPrefix(words[i+1], "--") {
			value = words[i+1]
		}
		name = strings.ReplaceAll(name, "_", "-") // the component's flag set takes both
		s.flags[name] = append(s.flags[name], value)
	}
	for _, p := range []struct {
		name  string
		probe *corev1.Probe
	}{{"livenessProbe", c.LivenessProbe}, {"startupProbe", c.StartupProbe}} {
		switch {
		case p.probe == nil:
		case p.probe.HTTPGet != nil:
			s.probes = append(s.probes, probe{p.name, p.probe.HTTPGet.Path})
		case p.probe.Exec != nil:
			if m := probePath.FindString(strings.Join(p.probe.Exec.Command, " ")); m != "" {
				s.probes = append(s.probes, probe{p.name, m})
			}
		}
	}
	return s, true
}

// probePath finds the health endpoint in a command.
var probePath = regexp.MustCompile(`/(livez|healthz|readyz)[^\s"']*`)

// expandEnv replaces $(NAME) as the kubelet does; $$(NAME) stays.
func expandEnv(s string, env map[string]string) string {
	return envRef.ReplaceAllStringFunc(s, func(m string) string {
		if strings.HasPrefix(m, "$$") {
			return m[1:]
		}
		if v, ok := env[m[2:len(m)-1]]; ok {
			return v
		}
		return m
	})
}

var envRef = regexp.MustCompile(`\$?\$\([A-Za-z_][A-Za-z0-9_.-]*\)`)

// shellScript is the script of "sh -c SCRIPT".
func shellScript(words []string) (string, bool) {
	if len(words) < 3 {
		return "", false
	}
	shell := words[0][strings.LastIndexByte(words[0], '/')+1:]
	if !slices.Contains([]string{"sh", "bash", "ash", "dash"}, shell) {
		return "", false
	}
	for i, w := range words[1:] {
		if strings.HasPrefix(w, "-") && strings.HasSuffix(w, "c") && i+2 < len(words) {
			return words[i+2], true
		}
	}
	return "", false
}

// shellWords splits a script at white space outside quotes and removes the quotes.
func shellWords(script string) []string {
	var out []string
	var word strings.Builder
	var quote rune
	in := false
	for _, r := range strings.ReplaceAll(script, "\\\n", " ") {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, in = r, true
		case r == ' ' || r == '\n' || r == '\t':
			if in {
				out = append(out, word.String())
				word.Reset()
				in = false
			}
		default:
			word.WriteRune(r)
			in = true
		}
	}
	if in {
		out = append(out, word.String())
	}
	return out
}

// quoted tells whether every value with a semicolon stands inside quotes in the script.
func quoted(script string, values []string) bool {
	for _, v := range values {
		if !strings.Contains(v, ";") {
			continue
		}
		at := strings.Index(script, v)
		if at < 0 {
			return true
		}
		var quote byte
		for i := range at {
			switch c := script[i]; {
			case quote == 0 && (c == '\'' || c == '"'):
				quote = c
			case c == quote:
				quote = 0
			}
		}
		if quote == 0 {
			return false
		}
	}
	return true
}
