//go:build tools

// Package tools keeps the version of what benchmarks build in go.mod.
package tools

import _ "github.com/bojand/ghz/cmd/ghz"
