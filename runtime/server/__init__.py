"""HTTP server of ``cellsam-engine serve``: segmentation, correction projects and two published protocols.

It needs the extra ``serve``. ``runtime.server.app.create_app`` builds the application, ``runtime.server.run.serve``
runs it, and ``runtime.server.client.Client`` calls it.
"""
