"""The server: OpenAI's and Anthropic's APIs in front of one pair.

One thread owns MLX and answers requests (answer.py, scheduler.py); an asyncio front
(app.py) reads requests and writes events, and touches no array. Each dialect
(chat, completions, responses, anthropic) turns its JSON into the one internal request
of schema.py, and the events of events.py into its own JSON.
"""
