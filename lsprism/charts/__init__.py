"""Reports as tables, charts and HTML pages: pure functions, without models and without the dashboard."""
