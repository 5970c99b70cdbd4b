import ArgumentParser
import CStart
import Dispatch
import Glibc
import Logging
import RegisPay
import Synchronization
import UnixSignals

/// Reads the settings of a server again at each SIGHUP, and applies those that a running server can change. The others are named in the
/// log, and wait for a restart. Settings that can't be used change nothing.
final class SettingsReload: Sendable {
  private let hangups: UnixSignalsSequence
  private let inForce: Mutex<ServeConfiguration>
  /// Reads files, which may be on a disk that hangs: no thread that others wait for.
  private let queue = DispatchQueue(label: "settings")

  private init(_ configuration: ServeConfiguration, _ hangups: UnixSignalsSequence) {
    self.hangups = hangups
    inForce = Mutex(configuration)
  }

  /// From now on SIGHUP ends the process no more. One that comes before ``begin(_:_:_:)`` waits for it.
  ///
  /// - Returns: nil without a configuration file, since all other sources stay as they are, and if the process was started to ignore
  ///   the signal.
  static func waitForHangups(_ configuration: ServeConfiguration?) async -> SettingsReload? {
    guard let configuration, configuration.file != nil, !cstart_is_ignored(SIGHUP) else { return nil }
    return SettingsReload(configuration, await UnixSignalsSequence(trapping: .sighup))
  }

  /// Begins to apply settings, until the process ends.
  func begin(_ server: Server, _ options: ServerOptions, _ logger: Logger) {
    Task {
      for await _ in hangups {
        queue.async { self.reload(server, options, logger) }
      }
    }
  }

  private func reload(_ server: Server, _ options: ServerOptions, _ logger: Logger) {
    let old = inForce.withLock { $0 }
    let new: ServeConfiguration
    let command: Serve
    do {
      new = try ServeConfiguration(old.given, environment: old.environment)
      command = try ServeConfiguration.$current.withValue(new) {
        let command = try Serve.parse(new.arguments)
        try command.checkTogether()
        return command
      }
    } catch let error as SettingsError {
      for line in error.lines { logger.error("settings not changed", metadata: ["reason": "\(line)"]) }
      return
    } catch {
      logger.error("settings not changed", metadata: ["reason": "\(Serve.message(for: error))"])
      return
    }
    let changed = new.changes(from: old)
    let changedOptions = command.serverOptions
    if changed.contains(where: { $0.name == "log-level" }) {
      options.logLevel.current = changedOptions.logLevel.current
    }
    server.replaceRules(changedOptions)
    let (applied, waiting) = (changed.filter(\.isReloadable), changed.filter { !$0.isReloadable })
    // Those that wait are reported each time, until they are what the server runs with.
    let mixed = new.keeping(waiting, of: old)
    inForce.withLock { $0 = mixed }
    options.settings.current = mixed.shown
    logger.notice("settings read again", metadata: ["changed": "\(applied.map(\.name).joined(separator: ", "))"])
    guard !waiting.isEmpty else { return }
    logger.warning(
      "settings have changed that need a restart",
      metadata: ["names": "\(waiting.map(\.name).joined(separator: ", "))"])
  }
}
