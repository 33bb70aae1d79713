package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
)

const sdk = "github.com/grafana/grafana-foundation-sdk/go/"

// Constants of a package's types as Go writes them, by the type's name. Go forgets them when it compiles, so
// they are read from the sources that the schema was compiled from: the build puts them beside the program.
type constants map[string]map[string]bool

var packages = map[string]constants{}

// outsideEnumerations are the values below path that none of their type's constants is: the parsers take any.
func outsideEnumerations(path string, read any) (found []string) {
	walk(path, reflect.ValueOf(read), func(at string, value reflect.Value) {
		if unknown, ok := value.Interface().(variants.UnknownDataquery); ok {
			found = append(found, fmt.Sprintf("%s: a query of no data source that is known: %v", at, unknown["datasource"]))
		}
		allowed := allowed(value.Type())
		written := fmt.Sprint(value)
		if value.Kind() == reflect.String {
			written = strconv.Quote(value.String())
		}
		if allowed != nil && !allowed[written] && !value.IsZero() { // what is not there is zero
			found = append(found, fmt.Sprintf("%s: %s is no %s", at, written, value.Type().Name()))
		}
	})
	return found
}

func allowed(kind reflect.Type) map[string]bool {
	name, ours := strings.CutPrefix(kind.PkgPath(), sdk)
	if !ours || kind.Kind() != reflect.String && !kind.ConvertibleTo(reflect.TypeFor[int64]()) {
		return nil
	}
	if _, read := packages[name]; !read {
		packages[name] = constantsOf(name)
	}
	return packages[name][kind.Name()]
}

func constantsOf(name string) constants {
	program, err := os.Executable()
	if err != nil {
		fail(err.Error())
	}
	source := filepath.Join(filepath.Dir(program), "schema", name, "types_gen.go")
	file, err := parser.ParseFile(token.NewFileSet(), source, nil, parser.SkipObjectResolution)
	if err != nil {
		fail(err.Error())
	}
	found := constants{}
	ast.Inspect(file, func(node ast.Node) bool {
		spec, ok := node.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		kind, named := spec.Type.(*ast.Ident)
		value, literal := spec.Values[0].(*ast.BasicLit)
		if named && literal {
			if found[kind.Name] == nil {
				found[kind.Name] = map[string]bool{}
			}
			found[kind.Name][value.Value] = true
		}
		return true
	})
	return found
}

// walk visits every value below this one with its place in the JSON.
func walk(at string, value reflect.Value, visit func(string, reflect.Value)) {
	switch value.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !value.IsNil() {
			walk(at, value.Elem(), visit)
		}
		return
	case reflect.Slice:
		for i := range value.Len() {
			walk(fmt.Sprintf("%s[%d]", at, i), value.Index(i), visit)
		}
	case reflect.Map:
		for _, key := range value.MapKeys() {
			walk(join(at, fmt.Sprint(key)), value.MapIndex(key), visit)
		}
	case reflect.Struct:
		for i := range value.NumField() {
			name, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
			if name == value.Type().Field(i).Name {
				name = "" // a union has one field a type, which the JSON does not name
			}
			walk(join(at, name), value.Field(i), visit)
		}
	}
	visit(at, value)
}
