import Logging

/// What a server refuses before it creates anything.
extension Server {
  /// - Parameters:
  ///   - directory: where the keys are.
  ///   - host: the address to listen on.
  static func checkKeys(
    in directory: String, host: String, isInsecure: Bool, _ logger: Logger
  ) throws(ServerError) {
    guard !ListenAddress.isLoopback(host) else { return }
    do throws(KeyStoreError) {
      guard try !KeyStore.hasValidKey(directory) else { return }
    } catch {
      throw .keys(error)
    }
    guard isInsecure else { throw .noKeys(host: host) }
    logger.warning(
      "no valid API key exists, and other machines may reach this address", metadata: ["host": "\(host)"])
  }

  static func checkDirectory(_ path: String, for use: DataDirectory.Use) throws(ServerError) {
    do throws(DataDirectory.Refusal) {
      try DataDirectory.check(path, for: use)
    } catch {
      throw .directory(path, reason: "\(error)")
    }
  }

  /// Nil without files.
  static func makeTLS(_ files: TLSFiles?) throws(ServerError) -> ServerTLS? {
    do throws(TLSFilesError) {
      return try files.map { files throws(TLSFilesError) in try ServerTLS(files) }
    } catch {
      throw .tls(error)
    }
  }

  static func checkSimulator(_ options: ServerOptions) throws(ServerError) {
    guard options.refusesSimulator, !options.simulatedServices.isEmpty else { return }
    let missing = [("--psp-url", options.pspURL), ("--notifications-url", options.notificationsURL)]
    throw .noSimulator(missing: missing.filter { $0.1 == nil }.map(\.0))
  }

  static func checkMetrics(_ options: ServerOptions) throws(ServerError) {
    guard let address = options.metricsAddress, !ListenAddress.isLoopback(address.host), !options.isInsecure else {
      return
    }
    throw .openMetrics(host: address.host)
  }
}
