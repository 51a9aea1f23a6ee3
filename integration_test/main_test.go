package integration_test

import (
	"os"
	"testing"

	"github.com/weirsync/weir/integration_test/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
