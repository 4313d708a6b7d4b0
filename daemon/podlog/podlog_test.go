package podlog

import (
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// drain takes what there is, without waiting for more.
func drain(q *Queue) (out, errs string) {
	for {
		c, ok, _ := q.take()
		if !ok {
			return out, errs
		}
		if c.Stderr {
			errs += string(c.Data)
		} else {
			out += string(c.Data)
		}
	}
}

func TestQueueKeepsOrder(t *testing.T) {
	q := New(1000)
	var want []Chunk
	for i := range 10 {
		q.Write(i%3 == 0, []byte{byte('a' + i)})
		if n := len(want); n > 0 && want[n-1].Stderr == (i%3 == 0) {
			want[n-1].Data = append(want[n-1].Data, byte('a'+i))
		} else {
			want = append(want, Chunk{i%3 == 0, []byte{byte('a' + i)}})
		}
	}
	q.Close()
	q.Write(false, []byte("late"))
	for _, w := range want {
		got, err := q.Next(t.Context())
		if err != nil || got.Stderr != w.Stderr || string(got.Data) != string(w.Data) {
			t.Fatalf("got %v %q, %v; want %v %q", got.Stderr, got.Data, err, w.Stderr, w.Data)
		}
	}
	if c, err := q.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("after the last: %q, %v, want io.EOF", c.Data, err)
	}
}

func TestQueueDropsAndCounts(t *testing.T) {
	q := New(100)
	line := strings.Repeat("x", 29) + "\n"
	for range 3 {
		q.Write(false, []byte(line))
	}
	q.Write(false, []byte(line))     // does not fit: 120
	q.Write(true, []byte("short\n")) // would, but comes after what is missing
	q.Write(false, []byte("begun ")) // of a line that is lost
	if _, ok, _ := q.take(); !ok {   // room again
		t.Fatal("nothing to take")
	}
	q.Write(false, []byte("ended\nnext\n")) // its first line is the lost one's end
	q.Write(false, []byte("and on\n"))
	out, errs := drain(q)
	if want := "next\nand on\n"; out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	if want := "teleswap: 3 lines missing here: the way to the pod was too slow\n"; errs != want {
		t.Errorf("got %q, want %q", errs, want)
	}
}

func TestQueueEndsCutLines(t *testing.T) {
	q := New(10)
	q.Write(false, []byte("12345678")) // of a line that is cut
	q.Write(false, []byte("901234\n"))
	q.Close()
	out, errs := drain(q)
	if out != "12345678\n" || errs != "teleswap: 1 line missing here: the way to the pod was too slow\n" {
		t.Errorf("got %q and %q", out, errs)
	}
}

// TestQueueNeverWaits writes far more than fits while nobody takes anything.
func TestQueueNeverWaits(t *testing.T) {
	q := New(Limit)
	var writers sync.WaitGroup
	for i := range 4 {
		writers.Go(func() {
			for range 20000 {
				q.Write(i%2 == 0, []byte(strings.Repeat("y", 99)+"\n"))
			}
		})
	}
	writers.Wait()
	if q.size > Limit {
		t.Errorf("%d bytes wait, want %d at most", q.size, Limit)
	}
	kept := q.size / 100
	q.Close()
	_, errs := drain(q)
	if want := 80000 - kept; !strings.Contains(errs, "teleswap: "+strconv.Itoa(want)+" lines missing") {
		t.Errorf("the last line is %q, want %d lines missing", errs[max(0, len(errs)-80):], want)
	}
}
