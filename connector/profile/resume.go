package profile

import "slices"

// Resume returns the steps of a plan that was made before, by their names in order: those of the route's first
// case that has exactly these steps. It returns nil if the route has no such case.
func (r *Route) Resume(names []string) []*Step {
	for _, c := range r.cases {
		if c.plan != nil && slices.EqualFunc(c.plan.Steps, names, func(s *Step, name string) bool { return s.Name == name }) {
			return slices.Clone(c.plan.Steps)
		}
	}
	return nil
}
