// Package spelling finds what somebody meant who mistyped a name. It knows nothing of where the names come from.
package spelling

import "strings"

// Nearest is the name that comes nearest to a word; empty where none is near. What begins with the word is near.
func Nearest(word string, names []string) string {
	best, distance := "", len(word)/2+1
	for _, n := range names {
		d := Distance(word, n)
		if strings.HasPrefix(n, word) && len(word) > 2 {
			d = min(d, 1)
		}
		if d < distance {
			best, distance = n, d
		}
	}
	return best
}

// Distance is Levenshtein's, in bytes.
func Distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
