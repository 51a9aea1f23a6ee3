package bench

import (
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
)

// A Report is what a run gave (design section 17).
type Report struct {
	Machine   Machine  `json:"machine"`
	Seed      uint64   `json:"seed"`
	Scenarios []Result `json:"scenarios"`
	Stages    []Stage  `json:"stages"`
}

// A Machine is where it ran.
type Machine struct {
	OS        string  `json:"os"`
	Arch      string  `json:"arch"`
	CPU       string  `json:"cpu"` // "" where it is not known, as the other figures
	Cores     int     `json:"cores"`
	MemoryMiB int64   `json:"memory_mib"`
	Load      float64 `json:"load"` // runnable processes in the minute before the run
	Go        string  `json:"go"`
}

// A Result is one scenario: medians over the rounds, the worst for memory, sums for what the vendor objects to.
type Result struct {
	Name           string   `json:"name"`
	Events         int      `json:"events"` // measured in each round
	EventsPerS     float64  `json:"events_per_s"`
	BarePerS       float64  `json:"bare_events_per_s"`
	RatioBare      float64  `json:"ratio_bare"`  // median of the rounds' own ratios
	RatioBound     *float64 `json:"ratio_bound"` // of in_flight / latency; null without a latency: nothing bounds it
	CPUPerEvent    float64  `json:"cpu_us_per_event"`
	BareCPU        float64  `json:"bare_cpu_us_per_event"`
	AllocsPerEvent float64  `json:"allocs_per_event"`
	PeakRSSMiB     float64  `json:"peak_rss_mib"`
	// From the time that an event was due to its receipt by the vendor. Without a rate all are due at the start, so
	// these are the age of a backlog.
	P50MS      float64 `json:"p50_ms"`
	P99MS      float64 `json:"p99_ms"`
	P999MS     float64 `json:"p999_ms"`
	Lost       int     `json:"lost"`
	Duplicated int     `json:"duplicated"`
	Reordered  int     `json:"reordered"`

	ratios, bares []float64
	barePeakMiB   float64
	bareAllocs    float64
}

// Clean reports whether the vendor saw every event once and in order.
func (r *Report) Clean() bool {
	for _, s := range r.Scenarios {
		if s.Lost != 0 || s.Duplicated != 0 || s.Reordered != 0 {
			return false
		}
	}
	return true
}

func (b *bench) result(s Scenario, bares, weirs []run) *Result {
	r := &Result{Name: s.Name, Events: b.o.Events}
	of := func(runs []run, f func(run) float64) float64 {
		v := make([]float64, len(runs))
		for i := range runs {
			v[i] = f(runs[i])
		}
		return median(v)
	}
	rate := func(x run) float64 { return x.rate }
	r.EventsPerS, r.BarePerS = of(weirs, rate), of(bares, rate)
	for i := range weirs {
		r.ratios = append(r.ratios, weirs[i].rate/bares[i].rate)
		r.bares = append(r.bares, bares[i].rate)
		r.PeakRSSMiB = max(r.PeakRSSMiB, float64(weirs[i].peak)/(1<<20))
		r.barePeakMiB = max(r.barePeakMiB, float64(bares[i].peak)/(1<<20))
		r.Lost += weirs[i].lost
		r.Duplicated += weirs[i].report.Duplicated
		r.Reordered += weirs[i].report.Reordered
	}
	r.RatioBare = median(r.ratios)
	median(r.bares) // sorts them
	if s.Latency > 0 {
		bound := round(r.EventsPerS/(float64(b.o.InFlight)/s.Latency.Seconds()), 4)
		r.RatioBound = &bound
	}
	cpu := func(x run) float64 { return x.cpu }
	mallocs := func(x run) float64 { return x.mallocs }
	r.CPUPerEvent, r.BareCPU = of(weirs, cpu), of(bares, cpu)
	r.AllocsPerEvent, r.bareAllocs = of(weirs, mallocs), of(bares, mallocs)
	r.P50MS = of(weirs, func(x run) float64 { return x.report.P50 })
	r.P99MS = of(weirs, func(x run) float64 { return x.report.P99 })
	r.P999MS = of(weirs, func(x run) float64 { return x.report.P999 })
	for _, f := range []*float64{&r.EventsPerS, &r.BarePerS, &r.CPUPerEvent, &r.BareCPU, &r.AllocsPerEvent, &r.PeakRSSMiB, &r.P50MS, &r.P99MS, &r.P999MS} {
		*f = round(*f, 1)
	}
	r.RatioBare = round(r.RatioBare, 4)
	return r
}

func round(f float64, digits int) float64 {
	p := math.Pow10(digits)
	return math.Round(f*p) / p
}

func machine() Machine {
	m := Machine{OS: runtime.GOOS, Arch: runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version()}
	m.CPU = procLine("/proc/cpuinfo", "model name")
	if kib, _, ok := strings.Cut(procLine("/proc/meminfo", "MemTotal"), " "); ok {
		n, _ := strconv.ParseInt(kib, 10, 64)
		m.MemoryMiB = n >> 10
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		first, _, _ := strings.Cut(string(b), " ")
		m.Load, _ = strconv.ParseFloat(first, 64)
	}
	return m
}

// procLine is the value of the first line "name : value" of a file of Linux, "" without one.
func procLine(file, name string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// Print writes the report for people, the floor beside each figure.
func (r *Report) Print(w io.Writer) error {
	m := r.Machine
	fmt.Fprintf(w, "%s/%s, %d cores", m.OS, m.Arch, m.Cores)
	if m.CPU != "" {
		fmt.Fprintf(w, " of %s", m.CPU)
	}
	if m.MemoryMiB > 0 {
		fmt.Fprintf(w, ", %d MiB", m.MemoryMiB)
	}
	fmt.Fprintf(w, ", %s, load %.1f, seed %d\n", m.Go, m.Load, r.Seed)
	for _, s := range r.Scenarios {
		fmt.Fprintf(w, "\n%s: %d events, %d rounds\n", s.Name, s.Events, len(s.ratios))
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "\tweir\tbare loop\tratio\t")
		fmt.Fprintf(t, "events/s\t%.0f\t%.0f\t%.2f\t\n", s.EventsPerS, s.BarePerS, s.RatioBare)
		fmt.Fprintf(t, "CPU, us/event\t%.1f\t%.1f\t%.2f\t\n", s.CPUPerEvent, s.BareCPU, s.CPUPerEvent/s.BareCPU)
		fmt.Fprintf(t, "allocations/event\t%.1f\t%.1f\t%.2f\t\n", s.AllocsPerEvent, s.bareAllocs, s.AllocsPerEvent/s.bareAllocs)
		fmt.Fprintf(t, "peak memory, MiB\t%.0f\t%.0f\t%.2f\t\n", s.PeakRSSMiB, s.barePeakMiB, s.PeakRSSMiB/s.barePeakMiB)
		if err := t.Flush(); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
		if n := len(s.ratios); n > 1 {
			fmt.Fprintf(w, "ratio of the rounds %.2f to %.2f; the bare loop against itself %.2f to 1\n", s.ratios[0], s.ratios[n-1], s.bares[0]/s.bares[n-1])
		}
		if s.RatioBound != nil {
			fmt.Fprintf(w, "%.2f of what the requests in flight allow at this latency\n", *s.RatioBound)
		}
		fmt.Fprintf(w, "due to received: p50 %.1f ms, p99 %.1f ms, p99.9 %.1f ms\n", s.P50MS, s.P99MS, s.P999MS)
		fmt.Fprintf(w, "lost %d, duplicated %d, reordered %d\n", s.Lost, s.Duplicated, s.Reordered)
	}
	fmt.Fprintln(w, "\nstages, one by one, on one core")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tCPU, ns/event\tallocations/event\t")
	for _, s := range r.Stages {
		fmt.Fprintf(t, "%s\t%.0f\t%.1f\t\n", s.Name, s.NS, s.Allocs)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}
