import Glibc
import LogStore
import NIOCore

extension ServerError {
  /// What ended a server's services; nil for a stop on request.
  ///
  /// - Parameters:
  ///   - host: where the server was to listen.
  ///   - port: the one of `--port`.
  init?(_ cause: any Error, host: String, port: Int) {
    switch cause {
    case let error as ServerError: self = error
    case let error as IOError where error.errnoCode == EADDRINUSE: self = .addressInUse(host: host, port: port)
    case let error as IOError: self = .listen(host: host, port: port, reason: error.description)
    case let error as LogStoreError: self = .store(error)
    case is CancellationError: return nil
    default: self = .stopped(reason: "\(cause)")
    }
  }
}
