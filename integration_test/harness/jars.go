package harness

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

// KafkaVersion is the version of Apache Kafka in testdata/kafka/pom.xml (design section 16).
const KafkaVersion = "4.1.1"

//go:embed testdata/kafka/pom.xml
var kafkaPOM []byte

// installJars returns the folder with the jars of Apache Kafka and fills it, once per machine, with Maven: 93 jars,
// 54 MB. Processes that come at the same time wait for the first; the folder appears complete or not at all.
func installJars() (string, error) {
	if dir := os.Getenv(envJars); dir != "" {
		return dir, checkJars(dir)
	}
	cache, err := os.UserCacheDir()
	if err != nil { // no HOME
		cache = os.TempDir()
	}
	parent := filepath.Join(cache, "weir-test")
	dir := filepath.Join(parent, "kafka-"+KafkaVersion)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", fmt.Errorf("cache of Kafka's jars: %w", err)
	}
	l, err := lock(dir + ".lock")
	if err != nil {
		return "", fmt.Errorf("cache of Kafka's jars: %w", err)
	}
	defer l.Close()
	err = checkJars(dir)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	if err := fetchJars(parent, dir); err != nil {
		return "", fmt.Errorf("fetch the jars of Apache Kafka %s from Maven Central: %w", KafkaVersion, err)
	}
	return dir, checkJars(dir)
}

func checkJars(dir string) error {
	for _, jar := range []string{"kafka_2.13", "kafka-tools", "kafka-clients"} {
		if _, err := os.Stat(filepath.Join(dir, jar+"-"+KafkaVersion+".jar")); err != nil {
			return fmt.Errorf("jars of Apache Kafka %s in %s: %w", KafkaVersion, dir, err)
		}
	}
	return nil
}

func fetchJars(parent, dir string) error {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return fmt.Errorf("%w (Debian: apt-get install maven)", err)
	}
	tmp, err := os.MkdirTemp(parent, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.WriteFile(filepath.Join(tmp, "pom.xml"), kafkaPOM, 0o644); err != nil {
		return err
	}
	libs := filepath.Join(tmp, "libs")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, mvn, "-B", "-q", "dependency:copy-dependencies", "-DoutputDirectory="+libs)
	cmd.Dir = tmp
	cmd.SysProcAttr = childAttr()
	cmd.WaitDelay = 10 * time.Second
	runtime.LockOSThread() // see startChild
	defer runtime.UnlockOSThread()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out[max(0, len(out)-4096):])
	}
	if err := os.RemoveAll(dir); err != nil { // an incomplete one, the lock is ours
		return err
	}
	return os.Rename(libs, dir)
}

// javaPath is JAVA_HOME's java, or the path's.
func javaPath() (string, error) {
	if home := os.Getenv("JAVA_HOME"); home != "" {
		return filepath.Join(home, "bin", "java"), nil
	}
	java, err := exec.LookPath("java")
	if err != nil {
		return "", fmt.Errorf("%w (Kafka needs Java 17 or newer; Debian: apt-get install openjdk-17-jre-headless)", err)
	}
	return java, nil
}
