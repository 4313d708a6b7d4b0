//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/teleswap/teleswap/e2e/cluster"
	"github.com/teleswap/teleswap/e2e/cluster/debian"
	"github.com/teleswap/teleswap/e2e/cluster/image"
)

const imageUsage = `usage: cluster image build --ref REF --entrypoint ARG... -o FILE [flags]

  --ref REF            name and tag of the image
  --entrypoint ARG     what it runs; give it again for each argument
  --cmd ARG            its default arguments; repeatable
  --file SRC:DST[:MODE]  put a file of this machine into it; repeatable
  --rootfs DIR|TAR     lay this tree down first
  --package NAME       lay this package of Debian's down first, with what it depends on; repeatable.
                       Downloaded once (needs Debian or Ubuntu, and apt's sources); then kept in the cache
  --without NAME       ... but not this one of those; repeatable
  --user UID[:GID]     whom it runs as; root when not given
  --env KEY=VALUE      repeatable
  --port PORT/tcp      repeatable
  --workdir DIR
  -o FILE              the docker-archive to write
`

func imageCommand(ctx context.Context, args []string, stderr io.Writer) error {
	if len(args) == 0 || args[0] != "build" {
		fmt.Fprint(stderr, imageUsage)
		return errUsage
	}
	flags := newFlags("image build", imageUsage, stderr)
	var spec image.Spec
	var tree debian.Spec
	list := func(into *[]string) func(string) error {
		return func(s string) error {
			*into = append(*into, s)
			return nil
		}
	}
	flags.StringVar(&spec.Ref, "ref", "", "")
	flags.StringVar(&spec.User, "user", "", "")
	flags.StringVar(&spec.RootFS, "rootfs", "", "")
	flags.StringVar(&spec.WorkDir, "workdir", "", "")
	flags.Func("entrypoint", "", list(&spec.Entrypoint))
	flags.Func("cmd", "", list(&spec.Cmd))
	flags.Func("env", "", list(&spec.Env))
	flags.Func("package", "", list(&tree.Packages))
	flags.Func("without", "", list(&tree.Without))
	flags.Func("port", "", list(&spec.Ports))
	flags.Func("file", "", func(s string) error {
		f, err := image.ParseFile(s)
		spec.Files = append(spec.Files, f)
		return err
	})
	out := flags.String("o", "", "")
	if err := flags.Parse(args[1:]); err != nil {
		return parseError(err)
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("image build: unexpected argument %q", flags.Arg(0))
	}
	if *out == "" {
		return errors.New("image build: say where to write the image: -o FILE")
	}
	if len(tree.Packages) > 0 {
		if err := layPackages(ctx, tree, &spec); err != nil {
			return err
		}
	}
	return image.WriteFile(*out, spec)
}

// layPackages makes the packages' tree the image's root file system.
func layPackages(ctx context.Context, tree debian.Spec, spec *image.Spec) (err error) {
	if spec.RootFS != "" {
		return errors.New("image build: --package and --rootfs exclude one another")
	}
	if tree.Cache, err = cluster.TreeCache(); err != nil {
		return err
	}
	spec.RootFS, err = debian.Ensure(ctx, tree)
	return err
}
