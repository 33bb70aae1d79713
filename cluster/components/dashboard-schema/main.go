// Reads dashboards with the strict parsers that Grafana's schema gives, panels' options, fields and queries
// included, and says what they don't take: unknown or missing keys, wrong types, numbers out of bounds, and
// words that an enumeration lacks.
//
//	dashboard-schema FILE...
//
// A line a problem: the file, where in it, what. Exit status 1 where there is one, 2 for what is no dashboard.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	if len(os.Args) < 2 {
		fail("usage: dashboard-schema FILE...")
	}
	plugins.RegisterDefaultPlugins()
	status := 0
	for _, file := range os.Args[1:] {
		content, err := os.ReadFile(file)
		if err != nil {
			fail(err.Error())
		}
		if err := isObject(content); err != nil {
			fail(file + ": " + err.Error())
		}
		for _, problem := range problems(content) {
			fmt.Printf("%s: %s\n", file, problem)
			status = 1
		}
	}
	os.Exit(status)
}

func fail(message string) {
	fmt.Fprintln(os.Stderr, message)
	os.Exit(2)
}

func isObject(content []byte) error {
	var syntax *json.SyntaxError
	err := json.Unmarshal(content, &map[string]json.RawMessage{})
	if errors.As(err, &syntax) {
		line := 1 + bytes.Count(content[:syntax.Offset], []byte("\n"))
		return fmt.Errorf("line %d: not JSON: %w", line, err)
	}
	if err != nil {
		return errors.New("not a dashboard: no JSON object")
	}
	return nil
}

// problems are in the order of their places: the parsers name unexpected fields in that of a Go map.
func problems(content []byte) []string {
	strict, read := dashboard.Dashboard{}, dashboard.Dashboard{}
	found := told("", strict.UnmarshalJSONStrict(content))
	found = append(found, ofPanels("", content)...)
	// The strict parser leaves out what belongs to plugins; what follows looks at the values, so all are needed.
	if err := json.Unmarshal(content, &read); err == nil {
		found = append(found, told("", read.Validate())...)
		found = append(found, outsideEnumerations("", read)...)
	} else if len(found) == 0 {
		found = told("", err)
	}
	slices.Sort(found)
	found = slices.Compact(found)
	return slices.DeleteFunc(slices.Clone(found), func(problem string) bool {
		place, _, _ := strings.Cut(problem, ": ")
		return slices.ContainsFunc(found, func(other string) bool {
			return strings.HasPrefix(other, place+".") // the same, told with its exact place
		})
	})
}

// ofPanels are those that the dashboard's own parser lets pass: panels and fields that no plugin knows, fields'
// defaults beside `custom`, and overrides. path: of what holds the panels.
func ofPanels(path string, content []byte) (found []string) {
	holder := struct{ Panels []json.RawMessage }{}
	if json.Unmarshal(content, &holder) != nil {
		return nil // told by the dashboard's parser
	}
	for i, raw := range holder.Panels {
		at := join(path, "panels["+strconv.Itoa(i)+"]")
		panel := struct {
			Type        string
			FieldConfig json.RawMessage
		}{}
		if json.Unmarshal(raw, &panel) != nil {
			continue
		}
		if panel.Type == "row" {
			found = append(found, ofPanels(at, raw)...)
			continue
		}
		if _, known := cog.ConfigForPanelcfgVariant(panel.Type); !known {
			found = append(found, fmt.Sprintf("%s.type: no such panel: %q", at, panel.Type))
		}
		if panel.FieldConfig != nil {
			found = append(found, ofFields(at+".fieldConfig", panel.Type, panel.FieldConfig)...)
		}
	}
	return found
}

func ofFields(path, panel string, content []byte) []string {
	fields := dashboard.FieldConfigSource{}
	found := told(path, fields.UnmarshalJSONStrict(content))
	for i, override := range fields.Overrides {
		for j, property := range override.Properties {
			at := fmt.Sprintf("%s.overrides[%d].properties[%d]", path, i, j)
			found = append(found, ofProperty(at, panel, property)...)
		}
	}
	return found
}

// ofProperty reads an override's value as the field of that name, which is what it replaces.
func ofProperty(path, panel string, property dashboard.DynamicConfigValue) []string {
	name, custom := strings.CutPrefix(property.Id, "custom.")
	content, err := json.Marshal(map[string]any{name: property.Value})
	if err != nil {
		return told(path, err)
	}
	if !custom {
		field := dashboard.FieldConfig{}
		found := told(path, field.UnmarshalJSONStrict(content))
		return append(found, outsideEnumerations(path, field)...)
	}
	plugin, known := cog.ConfigForPanelcfgVariant(panel)
	if !known || plugin.StrictFieldConfigUnmarshaler == nil {
		return nil
	}
	_, err = plugin.StrictFieldConfigUnmarshaler(content)
	found := slices.DeleteFunc(told(path, err), func(problem string) bool {
		return strings.HasSuffix(problem, missing) // an override replaces one field of several
	})
	if field, err := plugin.FieldConfigUnmarshaler(content); err == nil {
		found = append(found, outsideEnumerations(path, field)...)
	}
	return found
}

const missing = "required field is missing from input"

// The parsers put names of Go types among those of fields.
var typeName = regexp.MustCompile(`\.[A-Z]\w*`)

// told is one line a problem.
func told(path string, err error) (lines []string) {
	if err == nil {
		return nil
	}
	for _, each := range cog.MakeBuildErrors("", err) {
		where := strings.TrimPrefix(typeName.ReplaceAllString(each.Path, ""), ".")
		what := strings.TrimPrefix(each.Message, "json: ")
		if rest, ok := strings.CutPrefix(what, "unexpected field '"); ok {
			what = "unexpected field"
			where = join(where, strings.TrimSuffix(rest, "'"))
		}
		lines = append(lines, strings.TrimPrefix(join(path, where)+": "+what, ": "))
	}
	return lines
}

func join(path, name string) string {
	if path == "" || name == "" {
		return path + name
	}
	return path + "." + name
}
