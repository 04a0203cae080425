package main

import (
	"bytes"
	_ "embed"
	"html"
	"math"
	"text/template"
)

//go:embed chart.tmpl
var chartText string

var chartTemplate = template.Must(template.New("chart").Funcs(template.FuncMap{"escape": html.EscapeString}).Parse(chartText))

// chart is a plot of bars, in groups of one for each series.
type chart struct {
	title, unit string
	series      []string
	groups      []group
}

type group struct {
	name   string
	values []float64
}

// The sizes of a chart's parts, in pixels.
const (
	barHeight  = 16
	groupGap   = 14
	chartLeft  = 150
	chartRight = 70
	chartTop   = 40
	chartWide  = 760
)

// colours are told apart by the colour-blind too (Okabe and Ito).
var colours = []string{"#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999"}

type bar struct {
	X, Y, Width, Height int
	Colour, Name, Value string
}

type heading struct {
	Y    int
	Name string
}

// svg draws the chart.
func (c *chart) svg() []byte {
	most := 0.0
	for _, g := range c.groups {
		for _, v := range g.values {
			most = max(most, v)
		}
	}
	if most == 0 {
		most = 1
	}
	var bars []bar
	var groups []heading
	y := chartTop
	for _, g := range c.groups {
		top := y
		for i, v := range g.values {
			if v == 0 {
				continue
			}
			bars = append(bars, bar{
				X: chartLeft, Y: y, Width: max(1, int(math.Round(v/most*(chartWide-chartLeft-chartRight-90)))),
				Height: barHeight - 2,
				Colour: colours[i%len(colours)], Name: c.series[i], Value: number(v),
			})
			y += barHeight
		}
		groups = append(groups, heading{(top+y)/2 + 3, g.name})
		y += groupGap
	}
	var b bytes.Buffer
	// Nothing can go wrong: the template is tested, and the buffer takes all.
	_ = chartTemplate.Execute(&b, map[string]any{
		"Title": c.title, "Unit": c.unit, "Bars": bars, "Groups": groups, "Width": chartWide, "Height": y + 4, "Left": chartLeft - 8,
	})
	return b.Bytes()
}
