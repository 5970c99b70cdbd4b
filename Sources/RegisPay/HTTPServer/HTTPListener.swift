import Glibc
import Hummingbird
import Logging
import NIOCore
import NIOPosix
import ServiceLifecycle

/// Accepts connections and serves each, until the service is stopped. Then it accepts no more, and ends when the last one has ended.
///
/// Hummingbird's own listener can't take a socket that listens already.
struct HTTPListener<Responder: HTTPResponder>: Service where Responder.Context == HTTPRequestContext {
  /// Connections that the system makes before they are accepted, at most; `net.core.somaxconn` may allow fewer.
  private static var backlog: Int32 { 4_096 }

  let place: ListenPlace
  let connections: HTTPServerChannel<Responder>
  let logger: Logger
  /// Called once with the port.
  let onRunning: @Sendable (Int) -> Void

  func run() async throws {
    let server = try await bind()
    await withGracefulShutdownHandler {
      onRunning(server.channel.localAddress?.port ?? 0)
      await withDiscardingTaskGroup { group in
        do {
          try await server.executeThenClose { inbound in
            for try await connection in inbound {
              group.addTask { await connections.handle(value: connection, logger: logger) }
            }
          }
        } catch {
          logger.error("the listener failed", metadata: ["error": "\(error)"])
        }
      }
    } onGracefulShutdown: {
      server.channel.close(promise: nil)
    }
  }

  private func bind() async throws -> NIOAsyncChannel<HTTPServerChannel<Responder>.Value, Never> {
    let bootstrap = ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .serverChannelOption(.backlog, value: Self.backlog)
      .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
      .childChannelOption(.allowRemoteHalfClosure, value: true)
    return switch place {
    case .address(let host, let port):
      try await bootstrap.bind(host: host, port: port) { connections.setup(channel: $0, logger: logger) }
    case .socket(let descriptor):
      try await bound(bootstrap, to: descriptor)
    }
  }
}

extension HTTPListener {
  private func bound(
    _ bootstrap: ServerBootstrap, to descriptor: Int32
  ) async throws -> NIOAsyncChannel<HTTPServerChannel<Responder>.Value, Never> {
    let server = try await bootstrap.bind(descriptor) { connections.setup(channel: $0, logger: logger) }
    // NIO has made the queue of such a socket 128 long. A socket that listens can be told again.
    if listen(descriptor, Self.backlog) != 0 {
      logger.warning("can't lengthen the queue of the listening socket", metadata: ["error": "\(errno)"])
    }
    return server
  }
}

/// Where a listener listens.
enum ListenPlace: Sendable, Hashable {
  /// - Parameter port: 0 for any free one.
  case address(host: String, port: Int)
  /// A socket that listens already. If the process that made it keeps it open, connections wait in its queue while no server runs.
  case socket(Int32)
}
