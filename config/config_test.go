package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

func load(t *testing.T, file string, args ...string) (*Loaded, error) {
	t.Helper()
	o := Options{}
	if file != "" {
		o.File = filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(o.File, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	AddFlag(fs, "endpoints", "etcd.endpoints")
	AddFlag(fs, "dial-timeout", "etcd.dialTimeout")
	AddFlag(fs, "metrics-url", "etcd.metricsURLs")
	AddFlag(fs, "insecure-skip-tls-verify", "etcd.insecureSkipTLSVerify")
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	o.Flags = BoundFlags(fs)
	return Load(o)
}

func sourceOf(l *Loaded, path string) string {
	for _, v := range l.Values {
		if v.Key.Path == path {
			return v.Source
		}
	}
	return "no such key"
}

func TestDefault_IsValid(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
}

func TestLoad_NothingGivenIsTheDefault(t *testing.T) {
	l, err := load(t, "")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(l.Config, Default()) {
		t.Errorf("got %+v, want the default", l.Config)
	}
	for _, v := range l.Values {
		if v.Source != "default" {
			t.Errorf("%s: got source %s, want default", v.Key.Path, v.Source)
		}
	}
}

func TestLoad_Precedence(t *testing.T) {
	file := "etcd:\n  dialTimeout: 4s\n  endpoints: [file:1]\n"
	for _, tt := range []struct {
		name, file string
		env        map[string]string
		args       []string
		want       time.Duration
		source     string
	}{
		{"default", "", nil, nil, 2 * time.Second, "default"},
		{"file", file, nil, nil, 4 * time.Second, "file"},
		{"etcdctl's variable before the file", file, map[string]string{"ETCDCTL_DIAL_TIMEOUT": "5s"}, nil, 5 * time.Second, "env ETCDCTL_DIAL_TIMEOUT"},
		{"our short variable before etcdctl's", file, map[string]string{"ETCDCTL_DIAL_TIMEOUT": "5s", "ETCDKEEPER_DIAL_TIMEOUT": "6s"}, nil, 6 * time.Second, "env ETCDKEEPER_DIAL_TIMEOUT"},
		{"our full variable before the short one", file, map[string]string{"ETCDKEEPER_DIAL_TIMEOUT": "6s", "ETCDKEEPER_ETCD_DIAL_TIMEOUT": "7s"}, nil, 7 * time.Second, "env ETCDKEEPER_ETCD_DIAL_TIMEOUT"},
		{"without the underscore", file, map[string]string{"ETCDKEEPER_ETCD_DIALTIMEOUT": "8s"}, nil, 8 * time.Second, "env ETCDKEEPER_ETCD_DIALTIMEOUT"},
		{"flag before all", file, map[string]string{"ETCDKEEPER_ETCD_DIAL_TIMEOUT": "7s"}, []string{"--dial-timeout", "9s"}, 9 * time.Second, "flag --dial-timeout"},
		{"a flag that repeats the default still counts", file, nil, []string{"--dial-timeout=2s"}, 2 * time.Second, "flag --dial-timeout"},
		{"an empty variable is none", file, map[string]string{"ETCDKEEPER_ETCD_DIAL_TIMEOUT": ""}, nil, 4 * time.Second, "file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for k, v := range tt.env {
				t.Setenv(k, v)
			}
			l, err := load(t, tt.file, tt.args...)
			if err != nil {
				t.Fatal(err)
			}
			if got := l.Config.Etcd.DialTimeout; got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if got := sourceOf(l, "etcd.dialTimeout"); got != tt.source {
				t.Errorf("got source %q, want %q", got, tt.source)
			}
		})
	}
}

func TestLoad_ListsAndMaps(t *testing.T) {
	wantMap := map[string]string{"Etcd-A.example": "http://a:1/metrics", "b": "http://b:1/metrics?x=1"}
	for _, tt := range []struct {
		name, file string
		env        map[string]string
		args       []string
	}{
		{"file", "etcd:\n  endpoints: [a:1, b:2]\n  metricsURLs:\n    Etcd-A.example: http://a:1/metrics\n    b: http://b:1/metrics?x=1\n", nil, nil},
		{"file with etcdctl's list", "etcd:\n  endpoints: a:1,b:2\n  metricsURLs: {Etcd-A.example: http://a:1/metrics, b: \"http://b:1/metrics?x=1\"}\n", nil, nil},
		{"variables", "", map[string]string{"ETCDCTL_ENDPOINTS": "a:1, b:2", "ETCDKEEPER_ETCD_METRICS_URLS": "Etcd-A.example=http://a:1/metrics,b=http://b:1/metrics?x=1"}, nil},
		{"flags", "", nil, []string{"--endpoints", "a:1", "--endpoints=b:2", "--metrics-url", "Etcd-A.example=http://a:1/metrics", "--metrics-url", "b=http://b:1/metrics?x=1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for k, v := range tt.env {
				t.Setenv(k, v)
			}
			l, err := load(t, tt.file, tt.args...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"a:1", "b:2"}, l.Config.Etcd.Endpoints); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(wantMap, l.Config.Etcd.MetricsURLs); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLoad_EveryErrorAtOnce(t *testing.T) {
	t.Setenv("ETCDKEEPER_WATCH_INTERVAL", "soon")
	_, err := load(t, `etcd:
  endpoint: a:1
  dialTimeout: 5
  dialTimeout: 5s
  cert: x.pem
  metricsURLs: [a]
listen:
  adress: ":1"
  pprof: maybe
wach: {interval: 1s}
stateDir: [a]
log: loud
quite_another: 1
`)
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{
		"config.yaml: line 2: etcd.endpoint: unknown key: did you mean etcd.endpoints?",
		`line 3: etcd.dialTimeout: "5": want a duration such as 90s`,
		"line 4: etcd.dialTimeout: given twice, first in line 3",
		"line 6: etcd.metricsURLs: want names and values, got a list",
		"line 8: listen.adress: unknown key: did you mean listen.address?",
		`line 9: listen.pprof: "maybe": want true or false`,
		"line 10: wach: unknown key: did you mean watch?",
		"line 11: stateDir: want one value, got a list",
		`line 12: log: want keys and values, got "loud"`,
		"line 13: quite_another: unknown key: known here are ",
		`ETCDKEEPER_WATCH_INTERVAL: "soon": want a duration`,
		"etcd.key: cert is given, so the private key is needed too",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got\n%v\nwant it to contain %q", err, want)
		}
	}
}

func TestLoad_Files(t *testing.T) {
	for _, tt := range []struct{ name, file, want string }{
		{"empty", "", ""},
		{"comment only", "# nothing\n", ""},
		{"null", "~\n", ""},
		{"empty sections", "etcd:\nlisten: {}\nlog:\n  level:\n", ""},
		{"JSON", `{"log": {"level": "warn"}}`, ""},
		{"an anchor", "etcd:\n  cacert: &f a.pem\n  cert: *f\n  key: *f\n", ""},
		{"two documents", "log: {}\n---\nlog: {}\n", "want one YAML document"},
		{"a list", "- a\n", "the file: want keys and values, got a list"},
		{"no YAML", "a: b: c\n", "mapping values are not allowed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := tt.file
			if file == "" {
				file = "\n"
			}
			_, err := load(t, file)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got error %v, want none", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got error %v, want it to contain %q", err, tt.want)
			}
		})
	}
	if _, err := Load(Options{File: "/does/not/exist"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got error %v, want that there is no such file", err)
	}
}

func TestLoad_ListenAsOneValue(t *testing.T) {
	l, err := load(t, "listen: 127.0.0.1:1234\n")
	if err != nil || l.Config.Listen.Address != "127.0.0.1:1234" || l.Config.Listen.ProbeAddress != DefaultProbeListen {
		t.Errorf("got %+v, %v", l, err)
	}
}

func TestLoad_UnknownVariables(t *testing.T) {
	t.Setenv("ETCDKEEPER_LOG_LEVL", "debug")
	t.Setenv("ETCDKEEPER_SERVICE_HOST", "10.0.0.1") // set by Kubernetes beside a Service of our name
	t.Setenv("ETCDKEEPER_PORT_9379_TCP", "tcp://10.0.0.1:9379")
	t.Setenv("ETCDKEEPER_CONFIG", "x")
	l, err := load(t, "")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"unknown variable ETCDKEEPER_LOG_LEVL is ignored: did you mean ETCDKEEPER_LOG_LEVEL?"}
	if diff := cmp.Diff(want, l.Warnings); diff != "" {
		t.Error(diff)
	}
}

func TestValue_MasksSecrets(t *testing.T) {
	t.Setenv("ETCDCTL_USER", "root:geheim")
	t.Setenv("ETCDCTL_PASSWORD", "geheim")
	l, err := load(t, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range l.Values {
		if plain, _ := v.Plain().(string); strings.Contains(v.Text(), "geheim") || strings.Contains(plain, "geheim") {
			t.Errorf("%s shows its secret: %s", v.Key.Path, v.Text())
		}
	}
	if name, password := l.Config.Etcd.Credentials(); name != "root:geheim" || password != "geheim" {
		t.Errorf("got %s, %s: a given password leaves the user as it is", name, password)
	}
}

// Every key is documented, has a variable of its own, and its default survives being written and read.
func TestKeys(t *testing.T) {
	seen := map[string]string{}
	for _, k := range Keys() {
		if k.Doc == "" || !strings.HasSuffix(k.Doc, ".") {
			t.Errorf("%s: got doc %q, want a sentence", k.Path, k.Doc)
		}
		for _, env := range envNames(k) {
			if other, dup := seen[env]; dup {
				t.Errorf("%s and %s share the variable %s", k.Path, other, env)
			}
			seen[env] = k.Path
		}
		text := k.Format(k.Default)
		back, err := k.ParseText(text)
		if err != nil {
			t.Errorf("%s: default %q: %v", k.Path, text, err)
		} else if again := k.Format(back); again != text {
			t.Errorf("%s: default %q came back as %q", k.Path, text, again)
		}
		for _, f := range Fields(elem(k.Type)) {
			if f.Doc == "" {
				t.Errorf("%s[].%s is not documented", k.Path, f.Path)
			}
		}
	}
}

func elem(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		return t.Elem()
	}
	return t
}

func TestEnvName(t *testing.T) {
	for path, want := range map[string]string{
		"defrag.rule":                "ETCDKEEPER_DEFRAG_RULE",
		"stateDir":                   "ETCDKEEPER_STATE_DIR",
		"etcd.metricsURLs":           "ETCDKEEPER_ETCD_METRICS_URLS",
		"etcd.insecureSkipTLSVerify": "ETCDKEEPER_ETCD_INSECURE_SKIP_TLS_VERIFY",
		"vpa.cpuHalfLife":            "ETCDKEEPER_VPA_CPU_HALF_LIFE",
		"vpa.policy.oomCostGiBHours": "ETCDKEEPER_VPA_POLICY_OOM_COST_GI_B_HOURS",
	} {
		if got := envName(path); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"endpoints", "dialTimeout", "rule", "address"}
	for name, want := range map[string]string{
		"endpoint": "endpoints", "dialtimeout": "dialTimeout", "dial_timeout": "dialTimeout", "adress": "address", "rules": "rule",
		"timeout": "dialTimeout", "xyzzy": "", "": "",
	} {
		if got := Nearest(name, known); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func FuzzParseFile(f *testing.F) {
	f.Add([]byte("etcd:\n  endpoints: [a:1]\n  metricsURLs: {A: http://x}\n"))
	f.Add([]byte("listen: x\nlog: &a {level: info}\nwatch: *a\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("? [a]\n: b\n"))
	f.Add([]byte("<<: {a: b}\n"))
	keys := Keys()
	f.Fuzz(func(t *testing.T, data []byte) {
		values, problems := parseFile(data, keys)
		if len(problems) > 0 {
			return
		}
		for path := range values {
			if _, ok := Lookup(path); !ok {
				t.Errorf("accepted the unknown key %s", path)
			}
		}
	})
}

// A list that contains itself must not end the process.
func TestDecoder_SelfReference(t *testing.T) {
	type tree struct {
		Children []tree `yaml:"children"`
	}
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte("children: &a\n- children: *a\n"), &doc); err != nil {
		t.Fatal(err)
	}
	var d decoder
	var v tree
	d.decode(doc.Content[0], reflect.ValueOf(&v).Elem(), "tree")
	if err := errors.Join(d.problems...); err == nil || !strings.Contains(err.Error(), "nested too deeply") {
		t.Errorf("got %v, want that it is nested too deeply", err)
	}
}
