// Package harness holds what black-box tests need: a Kafka broker, the weir binary and the vendor sandboxes, each
// as a value that a test asks for and that is gone when the test ends.
//
// # Brokers
//
// [Broker] gives a test the broker that the environment names:
//
//	WEIR_TEST_KAFKA=host:port  that broker; it must be an empty one that tests may write to
//	WEIR_TEST_REAL=1           a real Apache Kafka, started once per test process from the jars of Maven Central
//	neither                    an in-process kfake cluster of the test's own, on TCP loopback
//
// A shared broker is kept apart by names: a test claims the topics and groups that it uses (CreateTopic, Claim,
// ClaimConnector), another test of the process that wants one of them waits, and they are deleted when the test
// ends. [StartKafka] and [StartKafkaCluster] start brokers of the test's own, which it may kill, freeze and restart.
//
// # Other variables
//
//	WEIR_TEST_KAFKA_JARS  folder with the broker's jars, instead of the cache below the user's cache folder
//	WEIR_TEST_LOGS        folder for the logs of failed tests, instead of the folder for temporary files
//	WEIR_TEST_REPORT      file to which Main appends how many tests ran against which real broker
//
// # Lifetimes
//
// What tests share (the broker, the binaries, the temporary folder) belongs to the process: every test package
// that uses this one calls [Main] from its TestMain, which ends it all. On Linux each child process is also killed
// by the kernel when the test process dies, however it dies. Every wait is bounded. Helpers that take a testing.TB
// end the test when they cannot do their work, so they are called from the test's own goroutine.
//
// The package needs a Unix system: it uses file locks and signals.
package harness
