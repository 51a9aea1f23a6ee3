package profile

import (
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Contract is the folder with the pairs of requests and answers that a contract check compares with, see package drift,
// and what to call it in messages. For a built-in profile it is part of the program. For a file it is the folder that the
// key contract names, relative to the file, else <file without .yaml>.contract beside it. The folder need not exist.
func (p *Profile) Contract() (dir fs.FS, name string) {
	if p.builtIn {
		sub, err := fs.Sub(contracts, "testdata/contract/"+p.Name)
		if err != nil { // the path is ours
			panic(err)
		}
		return sub, "built in"
	}
	name = p.contract
	switch {
	case name == "":
		name = strings.TrimSuffix(strings.TrimSuffix(p.file, ".yml"), ".yaml") + ".contract"
	case !filepath.IsAbs(name):
		name = filepath.Join(filepath.Dir(p.file), name)
	}
	return os.DirFS(name), name
}

// Production reports whether a compiled profile speaks to production: its environment is called so, or the base URL in its
// place has the host of production, unless another environment has that host too and is the one that was chosen.
func (p *Profile) Production(c *Compiled) bool {
	const production = "production"
	if c.Environment == production {
		return true
	}
	host, chosen := hostOf(c.BaseURL), ""
	for _, e := range p.environments {
		if e.name == c.Environment {
			chosen = hostOf(e.baseURL)
		}
	}
	for _, e := range p.environments {
		if e.name == production && hostOf(e.baseURL) == host && chosen != host {
			return true
		}
	}
	return false
}

func hostOf(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Hostname())
}
