//go:build race

package shtab

const raceEnabled = true
