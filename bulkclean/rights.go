package bulkclean

// Rights is what a policy of the daemon needs in etcd: prefixes of keys.
type Rights struct {
	Read  string   // everything that a plan looks at, owners among it
	Write []string // what is deleted there; empty unless the policy deletes, and does so in etcd
}

// Rights returns what the policy needs in etcd. The kind of a policy that is not valid gives no right to write.
func (p Policy) Rights() Rights {
	registry := Registry(p.EtcdPrefix)
	r := Rights{Read: registry + "/"}
	kind, err := KindByName(p.Kind)
	if err != nil || p.Mode != ModeApply || Via(p.Via) != ViaEtcd {
		return r
	}
	if p.AllNamespaces {
		r.Write = []string{kind.prefix(registry, "")}
		return r
	}
	for _, ns := range p.Namespaces {
		r.Write = append(r.Write, kind.prefix(registry, ns))
	}
	return r
}
