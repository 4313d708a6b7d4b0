package host

import "testing"

func TestRoutesOfThisMachine(t *testing.T) {
	all, err := Routes()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if !r.Prefix.IsValid() || r.Prefix != r.Prefix.Masked() || r.Device == "" && !r.Dead {
			t.Errorf("%+v", r)
		}
	}
}
