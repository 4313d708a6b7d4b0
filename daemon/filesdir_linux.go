package daemon

import "golang.org/x/sys/unix"

// inMemory says whether a directory is on a tmpfs: what is there never comes to a disk but by swap.
func inMemory(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.TMPFS_MAGIC
}
