// Measures klauspost/reedsolomon for one k and one shard size: a peer for run.sh.
//
// usage: klauspost K N SHARD_BYTES THREADS
// Its default matrix is the one that is wanted. Input, timing and output lines are those of
// ../examples/erasure_speed.rs. Variants: shards aligned to pages, or each begun 192 bytes further; with one thread
// (run.sh gives it one core) one goroutine or four, its own maximum with GFNI: with one it neither works in tiles nor
// uses GFNI for more than ten shards. With more threads it is left to its defaults, and only encodes.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/reedsolomon"
)

const (
	pageBytes    = 4096
	staggerBytes = 192

	// A sample lasts a millisecond, or one pass where that takes longer.
	sample        = time.Millisecond
	warmUpSamples = 30
	samplesMin    = 5
	measured      = 150 * time.Millisecond
)

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "klauspost:", err)
		os.Exit(1)
	}
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	fail(err)
	return value
}

// makeShards gives n shards outside of Go's heap, in ordinary pages like the other programs', and in the first k of
// them the same noise as everywhere. The memory is theirs together.
func makeShards(k, n, shardBytes, stagger int) (memory []byte, shards [][]byte) {
	stride := (shardBytes+pageBytes-1)/pageBytes*pageBytes + stagger
	protection, flags := syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON
	memory, err := syscall.Mmap(-1, 0, stride*n, protection, flags)
	fail(err)
	zero([][]byte{memory})
	shards = make([][]byte, n)
	for i := range shards {
		shards[i] = memory[stride*i:][:shardBytes:shardBytes]
	}
	for i, shard := range shards[:k] {
		state := (uint64(i)+1)*0x9e3779b97f4a7c15 | 1
		for j := range shard {
			state ^= state << 13
			state ^= state >> 7
			state ^= state << 17
			shard[j] = byte(state >> 24)
		}
	}
	return memory, shards
}

func zero(shards [][]byte) {
	for _, shard := range shards {
		for i := range shard {
			shard[i] = 0
		}
	}
}

// sum is FNV-1a over 64-bit little-endian words.
func sum(shards [][]byte) uint64 {
	sum := uint64(0xcbf29ce484222325)
	for _, shard := range shards {
		for ; len(shard) > 0; shard = shard[8:] {
			sum = (sum ^ binary.LittleEndian.Uint64(shard)) * 0x100000001b3
		}
	}
	return sum
}

// measure gives the best and the median rate in GB/s of a pass over so many bytes.
func measure(bytes int, pass func()) (best, median float64) {
	passes := 0
	for start := time.Now(); passes == 0 || time.Since(start) < warmUpSamples*sample; passes++ {
		pass()
	}
	batch := (passes + warmUpSamples - 1) / warmUpSamples
	var rates []float64
	start := time.Now()
	for begun := start; len(rates) < samplesMin || begun.Sub(start) < measured; {
		for i := 0; i < batch; i++ {
			pass()
		}
		ended := time.Now()
		rates = append(rates, float64(bytes*batch)/ended.Sub(begun).Seconds()/1e9)
		begun = ended
	}
	sort.Sort(sort.Reverse(sort.Float64Slice(rates)))
	return rates[0], rates[len(rates)/2]
}

// features names the instruction sets that the encoder will use; it has no method for that.
func features(encoder reedsolomon.Encoder) string {
	var names []string
	options := reflect.ValueOf(encoder).Elem().FieldByName("o")
	for i := 0; options.IsValid() && i < options.NumField(); i++ {
		name, used := strings.CutPrefix(options.Type().Field(i).Name, "use")
		if field := options.Field(i); used && field.Kind() == reflect.Bool && field.Bool() {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

func main() {
	if len(os.Args) != 5 {
		fail(fmt.Errorf("usage: klauspost K N SHARD_BYTES THREADS"))
	}
	k, n, shardBytes, threads := number(os.Args[1]), number(os.Args[2]), number(os.Args[3]), number(os.Args[4])
	type choice struct {
		name    string
		options []reedsolomon.Option
	}
	choices := []choice{{"default", nil}}
	if threads == 1 {
		choices = []choice{
			{"one", []reedsolomon.Option{reedsolomon.WithMaxGoroutines(1)}},
			{"four", []reedsolomon.Option{reedsolomon.WithMaxGoroutines(4)}},
		}
	}
	losses := []struct {
		name string
		lost func(shard int) bool
	}{
		{"one-data", func(shard int) bool { return shard == 0 }},
		{"one-parity", func(shard int) bool { return shard == k }},
		{"half-of-parity", func(shard int) bool { return shard%2 == 0 && shard < n-k }},
		{"as-much-as-parity", func(shard int) bool { return shard < n-k }},
	}
	used := ""
	for _, stagger := range []int{0, staggerBytes} {
		memory, shards := makeShards(k, n, shardBytes, stagger)
		layout := "aligned"
		if stagger > 0 {
			layout = "staggered"
		}
		for _, choice := range choices {
			encoder, err := reedsolomon.New(k, n-k, choice.options...)
			fail(err)
			used = features(encoder)
			report := func(operation string, pass func()) {
				best, median := measure(k*shardBytes, pass)
				fmt.Printf("rate %s %d %d %d %d %s-%s %.3f %.3f\n",
					operation, k, n, shardBytes, threads, layout, choice.name, best, median)
			}
			zero(shards[k:])
			report("encode", func() { fail(encoder.Encode(shards)) })
			fmt.Printf("sum %d %d %d %016x\n", k, n, shardBytes, sum(shards[k:]))
			if threads > 1 {
				continue
			}
			whole := sum(shards)
			for _, loss := range losses {
				var lost []int
				for i := range shards {
					if loss.lost(i) {
						lost = append(lost, i)
						zero(shards[i : i+1])
					}
				}
				// It makes just the shards of length 0, in the memory that they have.
				report(loss.name, func() {
					for _, i := range lost {
						shards[i] = shards[i][:0]
					}
					fail(encoder.Reconstruct(shards))
				})
				if sum(shards) != whole {
					fail(fmt.Errorf("a rebuilt shard is wrong"))
				}
			}
		}
		fail(syscall.Munmap(memory))
	}
	fmt.Println("with", used)
}
