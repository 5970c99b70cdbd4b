import Glibc
import Hummingbird
import Logging
import NIOCore
import NIOPosix
import ServiceLifecycle

/// Accepts connections and serves each, until the service is stopped. Then it accepts no more, and ends when the last one has ended.
///
/// Hummingbird's own listener can't take a socket that listens already, and hands each connection to a task, which waits for a thread:
/// with all of them blocked, as by a disk that hangs, no connection would be accepted. Here event loops do all of it.
struct HTTPListener<Responder: HTTPResponder>: Service where Responder.Context == HTTPRequestContext {
  /// Connections that the system makes before they are accepted, at most; `net.core.somaxconn` may allow fewer.
  private static var backlog: Int32 { 4_096 }
  /// Between the last accept and the closing of the socket: NIO cuts off a connection that is accepted and not set up then.
  private static var setUpTime: TimeAmount { .milliseconds(50) }

  let place: ListenPlace
  let connections: HTTPServerChannel<Responder>
  let logger: Logger
  /// The listener does not listen before this returns.
  var begin: @Sendable () async -> Void = {}
  /// Called once with the port.
  let onRunning: @Sendable (Int) -> Void

  func run() async throws {
    await begin()
    try Task.checkCancellation()
    let open = OpenConnections()
    let server = try await bind(open)
    await withTaskCancellationHandler {
      await withGracefulShutdownHandler {
        onRunning(server.localAddress?.port ?? 0)
        do {
          try await server.closeFuture.get()
        } catch {
          logger.error("the listener failed", metadata: ["error": "\(error)"])
        }
        await open.ended()
      } onGracefulShutdown: {
        open.stop()
        server.setOption(.autoRead, value: false).whenComplete { _ in
          server.eventLoop.scheduleTask(in: Self.setUpTime) { server.close(promise: nil) }
        }
      }
    } onCancel: {
      server.close(promise: nil)
      open.cutOff()
    }
  }

  private func bind(_ open: OpenConnections) async throws -> any Channel {
    let bootstrap = ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .serverChannelOption(.backlog, value: Self.backlog)
      .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
      .childChannelOption(.allowRemoteHalfClosure, value: true)
      .childChannelInitializer { [connections] channel in
        channel.eventLoop.makeCompletedFuture { open.add(channel, try connections.setUp(channel)) }
      }
    switch place {
    case .address(let host, let port): return try await bootstrap.bind(host: host, port: port).get()
    case .socket(let descriptor):
      let server = try await bootstrap.withBoundSocket(descriptor).get()
      // NIO has made the queue of such a socket 128 long. A socket that listens can be told again.
      if listen(descriptor, Self.backlog) != 0 {
        logger.warning("can't lengthen the queue of the listening socket", metadata: ["error": "\(errno)"])
      }
      return server
    }
  }
}

/// Where a listener listens.
enum ListenPlace: Sendable, Hashable {
  /// - Parameter port: 0 for any free one.
  case address(host: String, port: Int)
  /// A socket that listens already. If the process that made it keeps it open, connections wait in its queue while no server runs.
  case socket(Int32)
}
