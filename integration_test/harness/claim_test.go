package harness

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

func newClaims() *claims {
	c := new(claims)
	c.init()
	return c
}

func accept(context.Context, []string) error { return nil }

func TestClaimWaitsForAllNamesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClaims()
		if _, err := c.claim(t.Context(), "A", []string{"x"}, accept); err != nil {
			t.Fatal(err)
		}
		got := make(chan []string, 1)
		go func() {
			names, err := c.claim(t.Context(), "B", []string{"y", "x"}, accept)
			if err != nil {
				t.Error(err)
			}
			got <- names
		}()
		synctest.Wait()
		if len(got) != 0 {
			t.Fatal("B has x while A holds it")
		}
		// B waits without holding y, so nobody can wait for B.
		if _, err := c.claim(t.Context(), "A", []string{"y"}, accept); err != nil {
			t.Fatal(err)
		}
		c.release([]string{"x", "y"})
		if names := <-got; !slices.Equal(names, []string{"x", "y"}) {
			t.Errorf("B claimed %q, want x and y", names)
		}
	})
}

func TestClaimReturnsWhatIsNew(t *testing.T) {
	c := newClaims()
	for _, step := range []struct{ names, want []string }{
		{[]string{"a", "a"}, []string{"a"}},
		{[]string{"b", "a"}, []string{"b"}},
		{[]string{"a", "b"}, nil},
	} {
		got, err := c.claim(t.Context(), "A", step.names, accept)
		if err != nil || !slices.Equal(got, step.want) {
			t.Errorf("claim %q: %q, %v, want %q", step.names, got, err, step.want)
		}
	}
}

func TestClaimThatIsRefusedHoldsNothing(t *testing.T) {
	c := newClaims()
	refused := errors.New("exists")
	if _, err := c.claim(t.Context(), "A", []string{"a"}, func(context.Context, []string) error { return refused }); !errors.Is(err, refused) {
		t.Fatalf("claim: %v, want %v", err, refused)
	}
	if names, err := c.claim(t.Context(), "B", []string{"a"}, accept); err != nil || len(names) != 1 {
		t.Errorf("claim of a name whose claim was refused: %q, %v, want it", names, err)
	}
}

func TestClaimTellsWhoHoldsTheName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClaims()
		if _, err := c.claim(t.Context(), "TestHolder", []string{"a"}, accept); err != nil {
			t.Fatal(err)
		}
		_, err := c.claim(t.Context(), "B", []string{"a"}, accept)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "TestHolder") {
			t.Errorf("claim of a name that is never released: %v, want a deadline and the holder's name", err)
		}
	})
}
