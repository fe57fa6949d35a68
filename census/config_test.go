package census_test

import (
	"strings"
	"testing"

	"github.com/etcdkeeper/etcdkeeper/census"
)

func TestConfig_Validate(t *testing.T) {
	if err := census.DefaultConfig().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for name, spoil := range map[string]func(*census.Config){
		"rate":                     func(c *census.Config) { c.Rate = -1 },
		"from":                     func(c *census.Config) { c.From = "" },
		"top":                      func(c *census.Config) { c.Top = 0 },
		"metricsTop":               func(c *census.Config) { c.MetricsTop = 201 },
		"thresholds: objectLimit":  func(c *census.Config) { c.Thresholds.ObjectLimit = 0 },
		"thresholds.nearLimit":     func(c *census.Config) { c.Thresholds.NearLimit = 1.1 },
		"thresholds.nodes":         func(c *census.Config) { c.Thresholds.Nodes = -1 },
		"thresholds.outsideKeys":   func(c *census.Config) { c.Thresholds.OutsideKeys = -1 },
		"thresholds.eventsPastTTL": func(c *census.Config) { c.Thresholds.EventsPastTTL = 2 },
	} {
		c := census.DefaultConfig()
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
