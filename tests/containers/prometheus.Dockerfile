# Stands in for prom/prometheus where no image registry can be reached: Debian's build of the same server (2.42), with
# the paths, the user and the wget (busybox) that the compose file takes for granted. What it cannot show is that the
# published image starts; configuration, scraping and the walls around it are as real as with that one.
FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends busybox prometheus \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && ln -s /bin/busybox /usr/local/bin/wget \
    && install --directory --owner=nobody --group=nogroup /prometheus
USER nobody
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
