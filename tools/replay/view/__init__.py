"""The page of `engine-replay view`: a local web server on a journal, and what it serves.

    server.py     listens, on a port or on a Unix socket, until it is told to leave
    app.py        routes, limits and security headers of the JSON API and the page's files
    recorded.py   one journal as the page asks it: columns, states, requests, jumps
    page/         HTML, CSS and JavaScript modules, served as they lie there

Nothing here is imported before the verb runs.
"""
