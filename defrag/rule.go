package defrag

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/builtin"
	"github.com/expr-lang/expr/vm"
)

// DefaultRule defragments where at least 45 % of the file and 90 MiB are free, just before etcd's own alert
// etcdDatabaseHighFragmentationRatio (in use below 50 %) fires, or where more than 80 % of the quota is taken and
// 32 MiB can be given back.
const DefaultRule = `(dbSizeFree >= 0.45 * dbSize && dbSizeFree >= 90 * 1024 * 1024) || (dbQuotaUsage > 0.8 && dbSizeFree >= 32 * 1024 * 1024)`

// Bounds of a rule: a person's rule is far below them.
const (
	maxRuleLength = 4096
	maxRuleNodes  = 500
)

// Facts are what a rule can ask about one member. Sizes are in bytes; a value that is not known is NaN, with which
// every comparison but != is false. A time that never comes, or an event that never was, is +Inf.
type Facts struct {
	DBSize        float64 `expr:"dbSize"`        // the database file
	DBSizeInUse   float64 `expr:"dbSizeInUse"`   // the part of it that holds data
	DBSizeFree    float64 `expr:"dbSizeFree"`    // dbSize - dbSizeInUse
	DBQuota       float64 `expr:"dbQuota"`       // the member's quota
	DBQuotaUsage  float64 `expr:"dbQuotaUsage"`  // dbSize / dbQuota
	Fragmentation float64 `expr:"fragmentation"` // dbSizeFree / dbSize

	PredictedStallSeconds  float64 `expr:"predictedStallSeconds"`
	SecondsSinceDefrag     float64 `expr:"secondsSinceDefrag"`
	QuotaExhaustionSeconds float64 `expr:"quotaExhaustionSeconds"`
	IsLeader               bool    `expr:"isLeader"`
}

// Variables are the names that a rule knows.
func Variables() []string {
	return []string{"dbSize", "dbSizeInUse", "dbSizeFree", "dbQuota", "dbQuotaUsage", "fragmentation",
		"predictedStallSeconds", "secondsSinceDefrag", "quotaExhaustionSeconds", "isLeader"}
}

// Rule says when a member is defragmented. The zero value matches nothing.
type Rule struct {
	text    string
	program *vm.Program
}

// ParseRule compiles a rule: a boolean expression over the fields of Facts, in the language of
// github.com/expr-lang/expr without its collection functions, so that it always ends. It refuses an empty rule: the
// one that always matches is "true".
func ParseRule(text string) (Rule, error) {
	switch {
	case strings.TrimSpace(text) == "":
		return Rule{}, errors.New(`rule is empty: write "true" to defragment whenever it is asked for`)
	case len(text) > maxRuleLength:
		return Rule{}, fmt.Errorf("rule has %d characters, at most %d are allowed", len(text), maxRuleLength)
	}
	guard := &guard{}
	options := []expr.Option{expr.Env(Facts{}), expr.AsBool(), expr.MaxNodes(maxRuleNodes), expr.Optimize(false), expr.Patch(guard)}
	for _, f := range builtin.Builtins {
		if !slices.Contains(allowedFunctions, f.Name) {
			options = append(options, expr.DisableBuiltin(f.Name))
		}
	}
	program, err := expr.Compile(text, options...)
	if guard.err != nil {
		err = guard.err
	}
	if err != nil {
		return Rule{}, fmt.Errorf("rule: %w\nknown variables: %s", err, strings.Join(Variables(), ", "))
	}
	return Rule{text: text, program: program}, nil
}

var allowedFunctions = []string{"abs", "ceil", "floor", "round", "int", "float", "min", "max"}

// guard refuses what makes a rule work on collections: such a rule could run for ever.
type guard struct{ err error }

// Visit is called by the compiler for each node.
func (g *guard) Visit(node *ast.Node) {
	what := ""
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		if n.Value == "$env" {
			what = "$env"
		}
	case *ast.ArrayNode:
		what = "a list"
	case *ast.MapNode:
		what = "a map"
	case *ast.PredicateNode, *ast.PointerNode:
		what = "a predicate"
	case *ast.SliceNode:
		what = "a slice"
	case *ast.VariableDeclaratorNode:
		what = "a variable of its own"
	case *ast.BinaryNode:
		if n.Operator == ".." {
			what = "a range"
		}
		if n.Operator == "matches" {
			what = "a pattern"
		}
	}
	if what != "" && g.err == nil {
		g.err = fmt.Errorf("%s is not allowed in a rule: it compares numbers", what)
	}
}

// String is the rule as it was written.
func (r Rule) String() string { return r.text }

// Match evaluates the rule.
func (r Rule) Match(f Facts) (bool, error) {
	if r.program == nil {
		return false, nil
	}
	out, err := expr.Run(r.program, f)
	if err != nil {
		return false, fmt.Errorf("rule %q: %w", r.text, err)
	}
	return out.(bool), nil
}

// unknown is a number that is not known.
func unknown() float64 { return math.NaN() }
