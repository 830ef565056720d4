"""Static pictures for reports: an answer of the history as a Sankey diagram, a chord diagram or a timeline, in SVG."""
