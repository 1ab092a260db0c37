"""The dashboard: one file per tab. Forms become specs; reports become tables and charts.

A tab is a module with `build(context)`, called inside its `gr.Tab`. Handlers read, validate and show; HTML and charts
are made by pure functions, in charts/ and in the files here that do not import gradio. All texts are in texts/.
"""
