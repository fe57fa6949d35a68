package report

import (
	"cmp"
	"fmt"
	"html/template"
	"slices"
	"strings"
)

// Tile is an area of a treemap. Its children share its area; what they leave is drawn as the rest.
type Tile struct {
	Name     string
	Value    int64
	Note     string // behind the name in the tool tip
	Children []Tile
}

type rect struct{ x, y, w, h float64 }

// Size of the picture in its own units; it is scaled to the page.
const (
	mapWidth  = 1000.0
	mapHeight = 560.0
)

// restName is what a part of a tile is called that belongs to none of its children.
const restName = "all else"

// minTile is the share of the picture below which tiles are drawn as one: nobody could see or touch them.
const minTile = 0.0008

// Treemap draws tiles whose areas are in proportion to their values, the children within their parents. It is an SVG
// that needs neither script nor network; each tile has its name as a title. Names may be any text: they are escaped.
func Treemap(label string, tiles []Tile) template.HTML {
	var b strings.Builder
	total := sum(tiles)
	fmt.Fprintf(&b, `<svg class="treemap" role="img" aria-label="%s" viewBox="0 0 %g %g" xmlns="http://www.w3.org/2000/svg">`,
		escape(label), mapWidth, mapHeight)
	if total > 0 {
		tiles = fold(tiles, int64(minTile*float64(total)))
		for i, placed := range squarify(tiles, rect{0, 0, mapWidth, mapHeight}) {
			t := tiles[i]
			hue := (i * 137) % 360 // the golden angle: neighbours differ
			fmt.Fprintf(&b, `<g class="tile" style="--hue:%d">`, hue)
			children := fold(t.Children, int64(minTile*float64(total)))
			if rest := t.Value - sum(children); rest > 0 {
				name := ""
				if len(children) > 0 {
					name = restName
				}
				children = append(children, Tile{Name: name, Value: rest})
			}
			slices.SortStableFunc(children, func(x, y Tile) int { return cmp.Compare(y.Value, x.Value) })
			for j, c := range squarify(children, placed) {
				writeTile(&b, t, children[j], c, j)
			}
			fmt.Fprintf(&b, `<rect class="frame" x="%.4f" y="%.4f" width="%.4f" height="%.4f"/>`, placed.x, placed.y, placed.w, placed.h)
			writeLabel(&b, t, placed)
			b.WriteString(`</g>`)
		}
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String())
}

func writeTile(b *strings.Builder, parent, child Tile, r rect, n int) {
	name := parent.Name
	if child.Name != "" {
		name += ", " + child.Name
	}
	note := child.Note
	if note == "" {
		note = Size(child.Value)
	}
	fmt.Fprintf(b, `<rect class="cell" data-value="%d" x="%.4f" y="%.4f" width="%.4f" height="%.4f" style="--step:%d"><title>%s: %s</title></rect>`,
		child.Value, r.x, r.y, r.w, r.h, n%4, escape(name), escape(note))
}

// writeLabel names a tile where there is room for a word.
func writeLabel(b *strings.Builder, t Tile, r rect) {
	const letter, line = 8.2, 18.0
	room := int((r.w - 10) / letter)
	if room < 4 || r.h < line+6 {
		return
	}
	fmt.Fprintf(b, `<text x="%.2f" y="%.2f">%s</text>`, r.x+5, r.y+line-2, escape(cut(t.Name, room)))
	if r.h > 2*line+6 {
		fmt.Fprintf(b, `<text class="small" x="%.2f" y="%.2f">%s</text>`, r.x+5, r.y+2*line-4, escape(cut(Size(t.Value), room)))
	}
}

func cut(s string, n int) string {
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	return string(runes[:max(0, n-1)]) + "…"
}

func sum(tiles []Tile) (n int64) {
	for _, t := range tiles {
		n += t.Value
	}
	return n
}

// fold makes one tile of those below least, and drops empty ones. The rest is in descending order.
func fold(tiles []Tile, least int64) []Tile {
	var out []Tile
	rest, n := int64(0), 0
	for _, t := range tiles {
		if t.Value > 0 && t.Value >= least {
			out = append(out, t)
		} else if t.Value > 0 {
			rest += t.Value
			n++
		}
	}
	if n == 1 {
		out = append(out, Tile{Name: "1 smaller one", Value: rest})
	} else if n > 1 {
		out = append(out, Tile{Name: fmt.Sprintf("%d smaller ones", n), Value: rest})
	}
	slices.SortStableFunc(out, func(x, y Tile) int { return cmp.Compare(y.Value, x.Value) })
	return out
}

// squarify places tiles, which are in descending order, so that they are near to squares: Bruls, Huizing and van Wijk,
// "Squarified Treemaps", 2000. The areas are exact.
func squarify(tiles []Tile, r rect) []rect {
	out := make([]rect, 0, len(tiles))
	rest := float64(sum(tiles))
	for len(tiles) > 0 && rest > 0 {
		scale := r.w * r.h / rest // area of one unit
		side := min(r.w, r.h)
		n, row := 1, float64(tiles[0].Value)
		for n < len(tiles) {
			longer := row + float64(tiles[n].Value)
			if worst(tiles[:n+1], longer, side, scale) > worst(tiles[:n], row, side, scale) {
				break
			}
			row, n = longer, n+1
		}
		thick := row * scale / side
		at := 0.0
		for _, t := range tiles[:n] {
			length := float64(t.Value) / row * side
			if r.w >= r.h {
				out = append(out, rect{r.x, r.y + at, thick, length})
			} else {
				out = append(out, rect{r.x + at, r.y, length, thick})
			}
			at += length
		}
		if r.w >= r.h {
			r.x, r.w = r.x+thick, max(0, r.w-thick)
		} else {
			r.y, r.h = r.y+thick, max(0, r.h-thick)
		}
		rest -= row
		tiles = tiles[n:]
	}
	return out
}

// worst is the largest ratio of sides in a row of tiles.
func worst(tiles []Tile, row, side, scale float64) float64 {
	largest, least := float64(tiles[0].Value), float64(tiles[len(tiles)-1].Value)
	area := row * scale
	return max(side*side*largest*scale/(area*area), area*area/(side*side*least*scale))
}

func escape(s string) string { return template.HTMLEscapeString(s) }
