package api

import "os"

// checkOwner relies on the access list of the user's profile, which directories
// below it inherit.
func checkOwner(string, os.FileInfo) error { return nil }
