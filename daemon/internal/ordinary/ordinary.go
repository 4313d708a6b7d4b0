// Package ordinary lets tests that run as root run again as a user without any privilege, as most people are. It is for tests
// alone, and knows nothing of what they test.
package ordinary
