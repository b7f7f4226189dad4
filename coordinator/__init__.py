import os

# A coordinator with a PostgreSQL of its own starts that again while gRPC runs in the same process.
# gRPC's fork handlers, which are not needed here, crash the child now and then before it becomes that
# server. gRPC reads this when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
