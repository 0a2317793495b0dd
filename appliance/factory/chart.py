"""A picture of the trade-off: size against quality, speed as the size of the dot. Plain SVG, no library."""

from __future__ import annotations

from html import escape

from appliance.factory.evaluate import Score

WIDTH, HEIGHT, MARGIN = 640, 400, 60


def svg(scores: list[Score]) -> str:
    """An SVG document: x is the file's size in MB, y perplexity (lower is better), area tokens/s with one stream."""
    sizes = [s.size_bytes / 1e6 for s in scores]
    losses = [s.perplexity for s in scores]
    fastest = max(s.tokens_per_s_1 for s in scores)

    def place(value: float, values: list[float], low: float, high: float) -> float:
        span = max(values) - min(values)
        return (low + high) / 2 if not span else low + (value - min(values)) / span * (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        "<title>Size, perplexity and speed of each file</title>",
        f'<path d="M{MARGIN} 20V{HEIGHT - MARGIN}H{WIDTH - 20}" fill="none" stroke="#555"/>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 15}" text-anchor="middle">size, MB</text>',
        f'<text x="18" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 18 {HEIGHT / 2})">perplexity</text>',
    ]
    for s, size, loss in zip(scores, sizes, losses, strict=True):
        x = place(size, sizes, MARGIN + 50, WIDTH - 110)
        y = place(loss, losses, HEIGHT - MARGIN - 40, 50)
        radius = 6 + 14 * (s.tokens_per_s_1 / fastest) ** 0.5
        label = f"{s.name}: {size:.2f} MB, {loss:.3f}, {s.tokens_per_s_1:.0f} tok/s"
        parts.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="{radius:.0f}" fill="#2a7ab0" fill-opacity="0.6"/>')
        parts.append(f'<text x="{x:.0f}" y="{y - radius - 5:.0f}" text-anchor="middle">{escape(label)}</text>')
    return "\n".join([*parts, "</svg>", ""])
