//go:build !linux

package doctor

func machineRoutes() ([]Route, error) { return nil, errNoRoutes }
