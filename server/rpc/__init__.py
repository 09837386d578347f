"""gRPC: the only place of the server that imports grpc and the generated code."""
