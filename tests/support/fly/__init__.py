"""Fly's Machines API in memory, over real HTTP, with engines that run and failures on demand.

What it does follows Fly's documentation, its own client and what its users report; what it says is checked against
Fly's OpenAPI description, in every test that uses it.
"""
