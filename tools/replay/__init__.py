"""The replay debugger, `engine-replay VERB JOURNAL`: questions to a captured run.

Nothing here needs the model, a GPU or a network; nothing imports torch or zmq. A verb is one file
of `verbs/`, which turns the command line into a question; who answers it has the folder beside it.
"""
