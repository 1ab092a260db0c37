"""Reports as tables, charts and pages: pure functions that know the words and plotly, no model and no dashboard."""
