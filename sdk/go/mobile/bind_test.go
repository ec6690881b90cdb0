package mobile

import (
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// bindable reports whether gobind takes a type as that of a parameter, a result or a field.
func bindable(pkg *types.Package, t types.Type) bool {
	switch t := types.Unalias(t).(type) {
	case *types.Basic:
		switch t.Kind() {
		case types.Bool, types.Int, types.Int8, types.Int16, types.Int32, types.Int64, types.Uint8, types.Float32, types.Float64, types.String:
			return true
		}
	case *types.Slice:
		b, ok := t.Elem().(*types.Basic)
		return ok && b.Kind() == types.Uint8
	case *types.Pointer:
		n, ok := types.Unalias(t.Elem()).(*types.Named)
		if !ok {
			return false
		}
		_, isStruct := n.Underlying().(*types.Struct)
		return isStruct && n.Obj().Pkg() == pkg && n.Obj().Exported()
	case *types.Named:
		if t.Obj().Pkg() == nil && t.Obj().Name() == "error" {
			return true
		}
		_, isInterface := t.Underlying().(*types.Interface)
		return isInterface && t.Obj().Pkg() == pkg && t.Obj().Exported()
	}
	return false
}

// compiled returns the types of a package as the compiler wrote them down.
func compiled(t *testing.T, path string) *types.Package {
	t.Helper()
	out, err := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}}={{.Export}}", path).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	files := map[string]string{}
	for line := range strings.Lines(string(out)) {
		pkg, file, _ := strings.Cut(strings.TrimSpace(line), "=")
		files[pkg] = file
	}
	open := func(path string) (io.ReadCloser, error) { return os.Open(files[path]) }
	pkg, err := importer.ForCompiler(token.NewFileSet(), "gc", open).Import(path)
	if err != nil {
		t.Fatal(err)
	}
	return pkg
}

// Everything that is exported is of the shapes that gobind takes: what isn't it would leave out silently.
func TestAllOfItCanBeBound(t *testing.T) {
	pkg := compiled(t, "github.com/gochat-im/gochat/sdk/go/mobile")
	checked := 0
	signature := func(name string, s *types.Signature) {
		checked++
		if s.Variadic() || s.TypeParams().Len() > 0 {
			t.Errorf("%s is variadic or generic", name)
		}
		for p := range s.Params().Variables() {
			if !bindable(pkg, p.Type()) {
				t.Errorf("%s takes %v", name, p.Type())
			}
		}
		r := s.Results()
		for i := range r.Len() {
			if !bindable(pkg, r.At(i).Type()) {
				t.Errorf("%s returns %v", name, r.At(i).Type())
			}
		}
		if r.Len() > 2 || r.Len() == 2 && r.At(1).Type().String() != "error" {
			t.Errorf("%s returns %v: want one result, and an error", name, r)
		}
	}
	for _, name := range pkg.Scope().Names() {
		o := pkg.Scope().Lookup(name)
		if !o.Exported() {
			continue
		}
		switch o := o.(type) {
		case *types.Const:
			if !bindable(pkg, types.Default(o.Type())) {
				t.Errorf("%s is a %v", name, o.Type())
			}
		case *types.Func:
			signature(name, o.Type().(*types.Signature))
		case *types.TypeName:
			switch u := o.Type().Underlying().(type) {
			case *types.Struct:
				for f := range u.Fields() {
					if f.Exported() && (f.Embedded() || !bindable(pkg, f.Type())) {
						t.Errorf("%s.%s is a %v", name, f.Name(), f.Type())
					}
				}
			case *types.Interface:
				for m := range u.Methods() {
					signature(name+"."+m.Name(), m.Type().(*types.Signature))
				}
			default:
				t.Errorf("%s is neither a struct nor an interface", name)
			}
			if o.IsAlias() {
				t.Errorf("%s is an alias", name)
				continue
			}
			for m := range types.NewMethodSet(types.NewPointer(o.Type())).Methods() {
				if m.Obj().Exported() {
					signature(name+"."+m.Obj().Name(), m.Type().(*types.Signature))
				}
			}
		default:
			t.Errorf("%s is a %T", name, o)
		}
	}
	if checked < 50 {
		t.Errorf("only %d functions were looked at", checked)
	}
}
